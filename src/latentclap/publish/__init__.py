"""A fine-tuned system made ready for others, in one command: ``latentclap publish``.

The weights are checked and copied, the model card is written from the run's own records, and the folder can be pushed
to the Hugging Face hub. Nothing in it names a file or folder of the machine that it was made on.
"""
