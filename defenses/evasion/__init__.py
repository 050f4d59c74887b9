"""Ways to train classifiers that shall withstand evasion, and their controls; one file each."""
