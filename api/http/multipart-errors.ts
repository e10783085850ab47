import { AppError } from '#shared/errors.ts';

export function malformed(message: string): AppError {
  return new AppError('invalid-multipart', message);
}

export function tooLarge(message: string): AppError {
  return new AppError('content-too-large', message);
}
