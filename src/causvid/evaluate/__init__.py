"""Judge a model by its videos: first make videos into a folder, then judge the folder.

Measures (adherence, drift, Fréchet distance, seams, diversity) are functions of frames and labels; `judge` applies them
to a folder of videos, `card` writes down what came out.
"""
