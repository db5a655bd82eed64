"""What `mumtrain.sampler` is made of: the law of a stage, the drawing of sequences, the choice of their frames."""
