"""Which trials are trained together, where and when: policies, and what carries them out."""
