"""Speed and memory of a model on this machine, measured; what `causvid bench` prints."""
