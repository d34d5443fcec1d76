"""The Twilio trunks that numbers share."""
