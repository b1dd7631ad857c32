"""What a picture, a model and a score are."""
