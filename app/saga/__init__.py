"""The saga that connects a number: its state machine, its rows, its steps, and the runner around them."""
