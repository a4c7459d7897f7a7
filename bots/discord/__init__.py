"""The Discord side of the bots, on discord.py's Client: https://discordpy.readthedocs.io/"""
