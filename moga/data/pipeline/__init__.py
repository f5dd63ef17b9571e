"""From a folder of films to multi-shot clips: stages that are functions over frozen records."""
