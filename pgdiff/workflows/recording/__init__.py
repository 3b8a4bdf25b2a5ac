"""Recording of experience in Gymnasium environments."""
