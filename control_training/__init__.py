"""Training of ControlNets on the sketches that a decoder really gets: train_controlnet.py.

conditions    prompts, sketches, decoded sketches and color maps of all photographs, cached on disk
samples       random crops of photographs with their conditions, numbered
models        the frozen text-to-image model, the ControlNet, the noise and the target
loop          steps, checkpoints, logs
held_out      what is measured and shown of photographs that are not trained on
result        the folder that `--preset FOLDER` takes, with its card
"""
