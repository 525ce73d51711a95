package main

import (
	"context"
	"errors"
)

func (a *app) rates(ctx context.Context, file string, f costFlags) error { return errors.New("later") }
