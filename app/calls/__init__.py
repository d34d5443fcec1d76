"""Test calls: one SIP INVITE as Twilio would send it, and what its course says of the path."""
