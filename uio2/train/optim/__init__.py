"""The parts of the optimizer: names of parameters, learning-rate schedules, Adafactor."""
