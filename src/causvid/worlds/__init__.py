"""Hold procedural worlds: endless captioned video with labels, made on the spot."""
