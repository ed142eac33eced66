"""Training: autoencoder and codebooks, then the prior."""
