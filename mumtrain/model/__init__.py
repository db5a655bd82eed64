"""The models: positions, layers, towers of blocks, encoder, decoders, and the autoencoder that is trained."""
