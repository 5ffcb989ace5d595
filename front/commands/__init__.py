"""The commands, a subject a file: parse, call, show. Torch loads only inside them; ``cli.py`` names them."""
