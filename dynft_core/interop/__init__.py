"""Force constants in the files of other programs."""
