"""The networks of a model: encoder, decoder, quantiser, and their windows around tiles."""
