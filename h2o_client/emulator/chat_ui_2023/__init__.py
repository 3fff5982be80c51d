"""The dialect of the servers of 2023: chat-ui 0.3 to 0.6.

The rest of the emulator uses `face.Face` alone: what kind of request that is, what is
answered, who is refused, and what a scripted fault looks like.  Another dialect is
another folder with a face; store, service, engines and connections stay.
"""
