"""Words for shots: from an endpoint that sees them, or from files beside their film."""
