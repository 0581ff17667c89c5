//! Load and validate config.json.
