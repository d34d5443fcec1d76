"""Webhooks: endpoints, the outbox, and how one event is signed and sent."""
