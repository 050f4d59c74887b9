"""What is done to protected images: editing, cleaning and learning them."""
