"""What every room uses: whole files, errors, provenance, settings, the chat client, recorded results."""
