/** The part of libheif's JavaScript bindings that decode-heic.ts uses; the package describes only the C functions. */
declare module 'libheif-js/libheif-wasm/libheif-bundle.mjs' {
  /** Something that lives in the memory of the WebAssembly instance. */
  interface Handle {
    readonly __brand: 'HeifHandle';
  }
  export interface HeifError {
    readonly code: unknown;
    readonly message: string;
  }
  interface DecodedImage {
    readonly channels: readonly {
      readonly id: unknown;
      readonly width: number;
      readonly height: number;
      /** Bytes from one row to the next. */
      readonly stride: number;
      /** A view into the memory of the instance. */
      readonly data: Uint8Array;
    }[];
  }
  export interface Libheif {
    readonly heif_error_code: { readonly heif_error_Ok: unknown };
    readonly heif_channel: { readonly heif_channel_interleaved: unknown };
    readonly heif_colorspace: { readonly heif_colorspace_RGB: unknown };
    readonly heif_chroma: { readonly heif_chroma_interleaved_RGBA: unknown };
    heif_context_alloc(): Handle;
    heif_context_read_from_memory(context: Handle, bytes: Uint8Array): HeifError;
    heif_js_context_get_primary_image_handle(context: Handle): Handle | HeifError;
    heif_js_decode_image2(handle: Handle, colourSpace: unknown, chroma: unknown): DecodedImage | HeifError;
  }
  /** Makes an instance with memory of its own. */
  export default function createLibheif(): Libheif;
}
