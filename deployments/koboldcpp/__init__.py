"""KoboldCPP: text and chat by a language model, on a server that is attached to by its address or supervised."""
