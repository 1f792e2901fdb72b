"""The demo model: what it is taught, how, and the file that comes of it.

Imported by scripts/train_demo_model.py alone.

| module | holds |
|---|---|
| `answers` | what the model is to say, and to which prompts |
| `words` | what prompts that it has no answer to are made of |
| `tokenizer` | the vocabulary and the chat template |
| `conversations` | made-up conversations, from one seed |
| `batches` | conversations as rows of tokens |
| `network` | the model: its shape, its first weights, its forward pass |
| `training` | the stages, the loss, the optimiser |
| `model_file` | the weights to a GGUF file and back |
| `greedy` | greedy answers by the forward pass above |
| `golden` | the answers that the tests expect, and the score on fresh prompts |
"""
