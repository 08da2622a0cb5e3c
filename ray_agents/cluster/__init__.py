"""Contact with Ray: what runs entities in processes, and brings those processes up and down."""
