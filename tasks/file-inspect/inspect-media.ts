import { createReadStream } from 'node:fs';
import { parseStream, type IAudioMetadata } from 'music-metadata';
import { cleanText } from '#shared/domain/text.ts';
import type { InputFile } from '#shared/tasks/define-task.ts';
import { compact } from './compact.ts';
import type { Inspection } from './task.ts';

/** Above this the length of an MP3 that does not say it is estimated instead of counted. */
const countedBytesMax = 64 * 1024 * 1024;
const tagCharactersMax = 200;

/**
 * The parser looks for frames byte by byte: a megabyte of noise that begins like an MP3 keeps it busy for seconds, a
 * gigabyte for hours. A film of 5 GB with its directory at the end takes about this long.
 */
const parseMsMax = 30_000;

/**
 * Sound and film: container, length, codecs, title.
 * @throws Error when the parser gives up, when it takes too long, or when `signal` is aborted.
 */
export async function inspectMedia(
  file: InputFile,
  mediaType: string,
  signal: AbortSignal,
): Promise<Inspection['media']> {
  const deadline = AbortSignal.timeout(parseMsMax);
  // As a stream, because a stream can be cut off; the parser knows no signal.
  const stream = createReadStream(file.path, { signal: AbortSignal.any([signal, deadline]) });
  try {
    const fileInfo = { mimeType: mediaType, size: file.sizeBytes };
    const options = { duration: file.sizeBytes <= countedBytesMax, skipCovers: true };
    return describe(await parseStream(stream, fileInfo, options));
  } catch (err) {
    if (deadline.aborted) throw new Error(`It took longer than ${parseMsMax / 1_000} s.`, { cause: err });
    throw err;
  } finally {
    stream.destroy();
  }
}

function describe({ format, common }: IAudioMetadata): Inspection['media'] {
  const track = format.trackInfo.find(({ video }) => video !== undefined);
  const codec = tag(format.codec);
  const videoCodec = tag(track?.codecName ?? track?.codecId)?.replace(/^<(.*)>$/, '$1');
  return compact({
    container: tag(format.container),
    durationSeconds: positive(format.duration),
    bitsPerSecond: whole(format.bitrate),
    audio:
      format.hasAudio === true
        ? compact({
            codec,
            sampleRateHz: positive(format.sampleRate),
            channels: whole(format.numberOfChannels),
          })
        : undefined,
    video:
      format.hasVideo === true
        ? compact({
            codec: videoCodec,
            width: whole(track?.video?.pixelWidth),
            height: whole(track?.video?.pixelHeight),
          })
        : undefined,
    title: tag(common.title),
    artist: tag(common.artist),
    album: tag(common.album),
  });
}

function tag(value: string | undefined): string | undefined {
  return value === undefined || value === '' ? undefined : cleanText(value, tagCharactersMax);
}

function positive(value: number | undefined): number | undefined {
  return value !== undefined && Number.isFinite(value) && value > 0 ? value : undefined;
}

function whole(value: number | undefined): number | undefined {
  const number = positive(value);
  return number === undefined || number > Number.MAX_SAFE_INTEGER ? undefined : Math.round(number);
}
