"""What is measured beside Tessera, each as a process of its own."""
