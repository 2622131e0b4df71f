"""How the demo model is made: dialogues from a grammar, a tokenizer, a training run, an accuracy table. See README.md."""
