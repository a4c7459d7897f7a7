"""A replica's own subprocess: for libraries whose failure would take the replica with it, or whose memory only the end
of a process gives back."""
