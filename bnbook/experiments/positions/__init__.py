"""What an image is worth to BN's statistics in a ConvNet and in a fully connected network."""
