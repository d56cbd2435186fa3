"""The campaign as a pure state machine: no clock, no files, no Parsl."""
