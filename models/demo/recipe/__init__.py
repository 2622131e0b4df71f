"""How the demo model is made: dialogues, tokenizer, training, examination. See README.md."""
