"""The HTTP door: blueprints, schemas, problems, keys and health. Views unpack, call a service, pack."""
