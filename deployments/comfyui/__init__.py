"""ComfyUI as an engine: image, video and music by workflows that are data.

``client`` speaks HTTP and WebSocket; ``workflows`` loads a graph with its manifest; ``binding`` puts a job's parameters
into it; ``checking`` and ``stock`` compare it with what a server has; ``progress`` turns events into one fraction;
``outputs`` verifies files; ``failures`` says what an error means; ``run`` follows one prompt; ``engine`` is the
protocol, ``making`` makes it from a worker's entry in cluster.toml.
"""
