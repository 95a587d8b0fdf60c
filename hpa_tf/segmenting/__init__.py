"""Masks from the published networks, as a program: nobody else's worker processes need to know of networks.

preparation.py  from pixels to what the networks see, from their answers to maps of the field's size
"""
