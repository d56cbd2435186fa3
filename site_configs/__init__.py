"""Sites: one file each, with `config(run_dir)` that says where walkers, labels and fits run."""
