"""The terms of the reward, their presets and the processes that compute them."""
