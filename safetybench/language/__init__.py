"""Language models: instruction data, tuning, decoding and the recipes that distil them."""
