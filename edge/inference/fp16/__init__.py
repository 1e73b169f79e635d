"""FP16 models: conversion, ranges, casts."""
