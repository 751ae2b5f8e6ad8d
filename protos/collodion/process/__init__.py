"""What all our processes do alike: configuration, logs, metrics, announcing themselves."""
