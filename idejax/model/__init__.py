"""A pretrained Stable Diffusion as pure functions: text, noise, latents, pictures."""
