"""Measurements against peers: UNet, sampling, VAE, training, input and whole jobs."""
