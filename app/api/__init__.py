"""The HTTP API: one blueprint per resource. A view unpacks the request, calls a service, and packs the response."""
