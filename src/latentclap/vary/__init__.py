"""Variations of sounds: takes of the same thing that are not the same take."""
