"""Models that leave their run: published folders, the Hugging Face Hub, and policies that run without dreamlab."""
