"""The parts of training, one question a file; `secateur.recovery` is how they are used."""
