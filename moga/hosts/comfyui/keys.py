"""Names under which MoGA leaves things in ComfyUI's dictionaries."""

KEY = "moga"  # of wrappers, injections, additional models, and of the Call in transformer_options
TEXT_CONDITION = "moga_shots"  # of the shots in a conditioning
APPLIED = "moga_applied"  # attachment of a patcher: its Hooks
