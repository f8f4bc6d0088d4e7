"""Conversations about videos: VideoChat's encoder, the Q-Former, language models with LoRA, and chat templates."""
